-- The site's role, no superuser, and its database. Run once, in a new cluster.
\set password `cat /run/password/site`
CREATE ROLE site LOGIN PASSWORD :'password';
CREATE DATABASE site OWNER site;
