# fish completion of vmfence and fence_vmfence.  Static words come from here, not from starting vmfence.  Names of guests
# are asked for, for two seconds at most: by "vmfence list" in a guest, and only where the key can be read; by "vmfence
# host list" on a host.

# Whether the words before the cursor begin with this command.
function __vmfence_is
    set -l words (commandline -opc)[2..-1]
    set -l length (count $argv)
    test (count $words) -ge $length; and test "$words[1..$length]" = "$argv"
end

# Whether the words before the cursor are this command and nothing else.
function __vmfence_at
    set -l words (commandline -opc)[2..-1]
    test "$words" = "$argv"
end

function __vmfence_guests
    set -l key /etc/cluster/fence_xvm.key
    set -l where
    set -l before
    for word in (commandline -opc | string replace -r '^(--[^=]*)=' '$1\n' | string split \n)
        switch "$before"
            case -k --key_file
                set key $word
            case -T --ipaddr
                set -a where -T $word
            case -a --multicast_address
                set -a where -a $word
            case -p --ipport
                set -a where -p $word
        end
        set before $word
    end
    test -r $key; or return
    timeout 2 vmfence list -t 1 -k $key $where 2>/dev/null | string replace -r ' +[^ ]+ (on|off)$' ''
end

# The guests of this host.
function __vmfence_own_guests
    set -l where
    set -l before
    for word in (commandline -opc | string replace -r '^(--[^=]*)=' '$1\n' | string split \n)
        switch "$before"
            case -f --config
                set where -f $word
        end
        set before $word
    end
    timeout 2 vmfence host list $where 2>/dev/null |
        string replace -rf '^(.*[^ ]) +[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12} .*' '$1'
end

# The interfaces of this host, without the ports of bridges: nothing is heard there.
function __vmfence_interfaces
    for path in /sys/class/net/*/
        test -e $path/master; or string replace -r '.*/(.*)/$' '$1' $path
    end
end

# An option of the agent, under both of its names.
function __vmfence_agent
    complete -c fence_vmfence $argv
    complete -c vmfence -n '__vmfence_is agent' $argv
end

# An option of the list, under both of its names.
function __vmfence_list
    complete -c vmfence -n '__vmfence_is list; or __vmfence_is guest list' $argv
end

# An option of a command of the host.
function __vmfence_host
    complete -c vmfence -n "__vmfence_is host $argv[1]" $argv[2..-1]
end

complete -c vmfence -f
complete -c vmfence -s h -l help -d 'Show the options'
complete -c vmfence -n __vmfence_at -l version -d 'Show the version'
complete -c vmfence -n __vmfence_at -a agent -d 'The fence agent'
complete -c vmfence -n __vmfence_at -a demo -d 'See it work: daemon and agent over loopback'
complete -c vmfence -n __vmfence_at -a guest -d 'Commands for a guest'
complete -c vmfence -n __vmfence_at -a host -d 'Commands for the hypervisor machine'
complete -c vmfence -n __vmfence_at -a list -d 'The guests that this machine may see'
complete -c vmfence -n '__vmfence_at host' -a configure -d 'Make or change the configuration'
complete -c vmfence -n '__vmfence_at host' -a daemon -d 'Run the daemon'
complete -c vmfence -n '__vmfence_at host' -a history -d 'Who fenced whom'
complete -c vmfence -n '__vmfence_at host' -a status -d 'What the running daemon does'
complete -c vmfence -n '__vmfence_at host' -a keygen -d 'Make or judge the shared key'
complete -c vmfence -n '__vmfence_at host' -a list -d 'The guests of this host'
complete -c vmfence -n '__vmfence_at host' -a setup -d 'Everything that a host needs'
complete -c vmfence -n '__vmfence_at guest' -a list -d 'The guests that this machine may see'

__vmfence_host daemon -s f -l config -r -F -d Configuration
__vmfence_host daemon -s F -l foreground -d 'Accepted for the sake of fence_virtd'
__vmfence_host daemon -s d -l debug -x -d 'How much the log says'
__vmfence_host daemon -s w -l wait-for-init -d 'Wait until libvirt and the interface are there'
__vmfence_host daemon -s p -l pid-file -r -F -d 'File for the process number'

__vmfence_host status -s f -l config -r -F -d 'Configuration of the daemon'
__vmfence_host status -s s -l socket -r -F -d 'Control socket of the daemon'
__vmfence_host status -l json -d 'As JSON'

__vmfence_host history -l since -x -d 'How far back'
__vmfence_host history -s H -l guest -x -a '(__vmfence_own_guests)' -d 'Only this guest'
__vmfence_host history -l follow -d 'Then show what comes'
__vmfence_host history -s f -l config -r -F -d 'Configuration of the daemon'
__vmfence_host history -l json -d 'As JSON'

__vmfence_host keygen -F
__vmfence_host keygen -l bytes -x -d 'Size of the key'
__vmfence_host keygen -l force -d 'Replace a key that is there'
__vmfence_host keygen -l check -d 'Make nothing, judge the key'
__vmfence_host keygen -l json -d 'As JSON'

__vmfence_host configure -s f -l config -r -F -d 'File to write'
__vmfence_host configure -l import -r -F -d 'Start from this file'
__vmfence_host configure -l from-scratch -d 'Start from nothing'
__vmfence_host configure -l print -d 'Write the result to standard output only'
__vmfence_host configure -l dry-run -d 'Show what would change'
__vmfence_host configure -l yes -d 'Ask nothing'
__vmfence_host configure -l listener -x -a 'multicast tcp vsock serial' -d Listener
__vmfence_host configure -l address -x -d 'multicast: the group'
__vmfence_host configure -l port -x -d 'multicast: the UDP port'
__vmfence_host configure -l interface -x -a 'none (__vmfence_interfaces)' -d 'multicast: the bridge of the guests'
__vmfence_host configure -l tcp-address -x -d 'tcp: an address of this host'
__vmfence_host configure -l tcp-port -x -d 'tcp: the port'
__vmfence_host configure -l vsock-port -x -d 'vsock: the port'
__vmfence_host configure -l serial-uri -x -d 'serial: where the guests are'
__vmfence_host configure -l serial-path -r -F -d 'serial: folder of the sockets'
__vmfence_host configure -l serial-mode -x -a 'serial vmchannel' -d 'serial: mode'
__vmfence_host configure -l key-file -r -F -d 'Shared key'
__vmfence_host configure -l family -x -a 'ipv4 ipv6' -d 'Address family'
__vmfence_host configure -l hash -x -a 'none sha1 sha256 sha512' -d 'Weakest signature accepted'
__vmfence_host configure -l auth -x -a 'none sha1 sha256 sha512' -d 'Hash of the challenges'
__vmfence_host configure -l backend -x -a 'libvirt cpg' -d Backend
__vmfence_host configure -l uri -x -d 'Where libvirt has the guests'
__vmfence_host configure -l name-mode -x -a 'name uuid' -d 'cpg: how guests are known'

__vmfence_host list -s f -l config -r -F -d 'Configuration of the daemon'
__vmfence_host list -l uri -x -d 'Ask libvirt there'
__vmfence_host list -l json -d 'As JSON'

__vmfence_host setup -l uri -x -d 'Libvirt to serve'
__vmfence_host setup -l interface -x -a '(__vmfence_interfaces)' -d 'Bridge of the guests'
__vmfence_host setup -l listener -x -a 'multicast tcp' -d 'How guests ask'
__vmfence_host setup -l key-file -r -F -d 'Shared key'
__vmfence_host setup -s f -l config -r -F -d Configuration
__vmfence_host setup -l no-firewall -d 'Leave the firewall alone'
__vmfence_host setup -l no-service -d 'Neither install nor start the service'
__vmfence_host setup -l no-check -d 'Do not try whether it works'
__vmfence_host setup -l dry-run -d 'Only tell what would be done'
__vmfence_host setup -l yes -d 'Accepted, and always meant'
__vmfence_host setup -l json -d 'As JSON'

__vmfence_list -s a -l multicast-address -x -d 'Multicast group to ask'
__vmfence_list -s i -l ip-family -x -a 'auto ipv4 ipv6' -d 'Address family of the group'
__vmfence_list -s T -l ipaddr -x -d 'Ask the daemon at this address by TCP'
__vmfence_list -s p -l ipport -x -d 'Port of the daemon'
__vmfence_list -s k -l key-file -r -F -d 'Shared key'
__vmfence_list -s c -l hash -x -a 'none sha1 sha256 sha512' -d 'Hash of the signature'
__vmfence_list -s C -l auth -x -a 'none sha1 sha256 sha512' -d 'Hash of the challenges'
__vmfence_list -s t -l timeout -x -d 'Seconds to wait'
__vmfence_list -l json -d 'As JSON'

complete -c fence_vmfence -f
complete -c fence_vmfence -s h -l help -d 'Show the options'
__vmfence_agent -s V -l version -d 'Show the version'
__vmfence_agent -s d -l debug -d 'Tell what is being done'
__vmfence_agent -s i -l ip_family -x -a 'auto ipv4 ipv6' -d 'Address family of the group'
__vmfence_agent -s a -l multicast_address -x -d 'Multicast group to ask'
__vmfence_agent -s T -l ipaddr -x -d 'Ask the host at this address over TCP'
__vmfence_agent -s S -l vsock -d 'Ask over a VM socket (not available yet)'
__vmfence_agent -s A -l channel_address -x -d 'Ask through a VM channel (not available yet)'
__vmfence_agent -s D -l serial_device -r -F -d 'Ask through a serial device (not available yet)'
__vmfence_agent -s P -l serial_params -x -d 'Parameters of the serial device (not available yet)'
__vmfence_agent -s p -l ipport -x -d 'Port of the daemon'
__vmfence_agent -s r -l retrans -x -d 'Tenths of a second between two packets'
__vmfence_agent -s c -l hash -x -a 'none sha1 sha256 sha512' -d 'Hash that signs the request'
__vmfence_agent -s C -l auth -x -a 'none sha1 sha256 sha512' -d 'Hash by which both sides prove the key'
__vmfence_agent -s k -l key_file -r -F -d 'Shared key'
__vmfence_agent -s n -l plug -x -a '(__vmfence_guests)' -d 'Guest'
__vmfence_agent -s H -l port -x -a '(__vmfence_guests)' -d 'Guest'
__vmfence_agent -l domain -x -a '(__vmfence_guests)' -d 'Guest'
__vmfence_agent -s u -l use_uuid -d 'Mark the guest as a UUID'
set -l actions on off reboot status monitor list list-status metadata validate-all
__vmfence_agent -s o -l action -x -a "$actions" -d 'What to do'
__vmfence_agent -s t -l timeout -x -d 'Seconds to wait for the result'
__vmfence_agent -s w -l delay -x -d 'Seconds to wait before off, on or reboot'
