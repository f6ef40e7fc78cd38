# bash looks for a file named as the command; the completion of fence_vmfence stands beside that of vmfence.
. "${BASH_SOURCE[0]%/*}/vmfence.bash"
