"""All that mpool knows of the process around it: mod_python, threads, forks, stacks."""
