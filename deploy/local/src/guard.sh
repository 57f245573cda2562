# sh -c "$(cat guard.sh)" guard FOLDER NAME PROGRAM ARGUMENT...
#
# Runs the program as its child and writes the child's process id to FOLDER/NAME.pid. Standard input is a pipe from the
# owner: when it closes (the owner died, in whatever way) the program is killed and the folder removed. The word
# "keep" through the pipe ends that watch and lets the program live on. Ends with the program, with its status.

folder="$1"
mine="$1/$2"
shift 2
exec 3<&0 </dev/null
rm -f "$mine.pid"

"$@" 3<&- &
server=$!
printf '%s\n' "$server" >"$mine.new" && mv "$mine.new" "$mine.pid"

# Only now: an ignored signal is inherited, and the server has to heed TERM. A group whose owner has died is hung up
# by the kernel if one of its members is frozen, and we have to survive that.
trap '' HUP INT QUIT TERM
orphaned=
trap 'orphaned=yes' USR1

(
    read -r word <&3
    [ "$word" = keep ] && exit
    kill -USR1 "$$"
    kill -KILL "$server"
) &
watch=$!
exec 3<&-

wait "$server"
status=$?
if [ "$orphaned" ]; then
    # A signal with a trap ends the wait early. Programs may share the folder: the last of them leaves nothing in it.
    wait "$server"
    cd / && rm -rf "$folder"
else
    kill -KILL "$watch" 2>/dev/null
fi
exit "$status"
