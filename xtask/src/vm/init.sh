#!/busybox sh
# The machine's first process: loads the disks' drivers, then hands over to the root's own init.
/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    /busybox insmod "$module"
done
tries=0
until /busybox mount -t ext4 /dev/vda /root 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then
        echo "init: the root disk did not come"
        exit 1
    fi
    /busybox sleep 0.1
done
/busybox mount -o move /dev /root/dev
exec /busybox switch_root /root /sbin/init
