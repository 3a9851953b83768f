# Stops the tests' server when nobody has used it for a minute or two, whatever became of those who
# did. $1: the prefix of the files beside the cluster; $2: the server's process id.
#
# Every test process touches $1.alive now and then. Moving the file away is the decision to stop: a
# process that comes to use the server meanwhile sees that it is being stopped.
trap '' HUP
fresh() { [ -n "$(find "$1" -mmin -2 2>/dev/null)" ]; }

while sleep 5; do
    kill -0 "$2" 2>/dev/null || exit 0
    fresh "$1.alive" && continue
    mv "$1.alive" "$1.stopping" 2>/dev/null
    # Somebody touched it between the look and the move.
    if fresh "$1.stopping"; then
        mv "$1.stopping" "$1.alive"
        continue
    fi
    kill -INT "$2"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "$2" 2>/dev/null || break
        sleep 1
    done
    rm -f "$1.stopping"
    exit 0
done
