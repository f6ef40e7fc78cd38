# fish looks for a file named as the command; the completion of fence_vmfence stands beside that of vmfence.
source (status dirname)/vmfence.fish
