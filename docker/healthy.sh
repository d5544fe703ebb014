# What the HEALTHCHECK runs, with bash: does Apache answer, and Python in it, whatever the database does?
#
# Docker asks one second after the start, and one second after it was answered. So the first answer, which others wait
# for, comes as soon as there is something to say; once all is well this takes its time, which costs less than being
# started every second.
marker=/dev/shm/mpool-healthy

answers() {
    exec 3<>"/dev/tcp/127.0.0.1/$APACHE_LISTEN" && printf 'GET /.mpool/ready HTTP/1.0\r\n\r\n' >&3 &&
        read -r -t 5 _ status _ <&3 && [ "$status" = 200 ]
} 2>/dev/null

if [ -e "$marker" ]; then
    rm -f "$marker"
    sleep 9
    answers || exit 1
    : >"$marker"
    exit 0
fi
for _ in {1..50}; do
    if answers; then
        : >"$marker"
        exit 0
    fi
    sleep 0.1
done
exit 1
