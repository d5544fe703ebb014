# What the HEALTHCHECK runs, every other second: bash opens the connection itself, and no process is started.
exec 3<>"/dev/tcp/127.0.0.1/$APACHE_LISTEN" || exit 1
printf 'GET /.mpool/ready HTTP/1.0\r\n\r\n' >&3
read -r _ status _ <&3 && [ "$status" = 200 ] || exit 1
