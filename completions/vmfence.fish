# fish completion of vmfence and fence_vmfence.  Static words come from here, not from starting vmfence.  Names of guests
# are asked for, for two seconds at most: by "vmfence list" in a guest, and only where the key can be read; by "vmfence
# host list" on a host.  So are nodes and devices of the cluster (cibadmin), agents (stonith_admin) and codes (vmfence).

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

# A part of the cluster's configuration, or of that in the file which --cib names; nothing where there is none.
function __vmfence_cib
    set -l file
    set -l before
    for word in (commandline -opc | string replace -r '^(--[^=]*)=' '$1\n' | string split \n)
        test "$before" = --cib; and set file CIB_file=$word
        set before $word
    end
    env $file timeout 2 cibadmin -Q -o $argv[1] 2>/dev/null
end

function __vmfence_nodes
    __vmfence_cib nodes | string replace -rf '.*<node .*uname="([^"&]*)".*' '$1'
end

function __vmfence_devices
    __vmfence_cib resources | string match -e ' class="stonith"' |
        string replace -rf '.*<primitive (?:.* )?id="([^"&]*)".*' '$1'
end

function __vmfence_installed_agents
    timeout 2 stonith_admin -I 2>/dev/null | string match -rv ' '
end

# The codes of "cluster check" or "host check".
function __vmfence_codes
    timeout 2 vmfence $argv[1] check --explain all 2>/dev/null | string replace ': ' \t
end

# An option of the agent, under both of its names.
function __vmfence_agent
    complete -c fence_vmfence $argv
    complete -c vmfence -n '__vmfence_is agent' $argv
end

# An option of the list, under both of its names, and of the check of a guest, which asks in the same way.
function __vmfence_list
    complete -c vmfence -n '__vmfence_is list; or __vmfence_is guest list; or __vmfence_is guest check' $argv
end

# An option of a command of the host.
function __vmfence_host
    complete -c vmfence -n "__vmfence_is host $argv[1]" $argv[2..-1]
end

# An option of a command of a guest alone.
function __vmfence_guest
    complete -c vmfence -n "__vmfence_is guest $argv[1]" $argv[2..-1]
end

# An option of a command of the cluster.
function __vmfence_cluster
    complete -c vmfence -n "__vmfence_is cluster $argv[1]" $argv[2..-1]
end

complete -c vmfence -f
complete -c vmfence -s h -l help -d 'Show the options'
complete -c vmfence -n __vmfence_at -l version -d 'Show the version'
complete -c vmfence -n __vmfence_at -a agent -d 'The fence agent'
complete -c vmfence -n __vmfence_at -a cluster -d 'Commands for a cluster node'
complete -c vmfence -n __vmfence_at -a demo -d 'See it work: daemon and agent over loopback'
complete -c vmfence -n __vmfence_at -a guest -d 'Commands for a guest'
complete -c vmfence -n __vmfence_at -a host -d 'Commands for the hypervisor machine'
complete -c vmfence -n __vmfence_at -a list -d 'The guests that this machine may see'
complete -c vmfence -n '__vmfence_at host' -a check -d 'Would fencing work on this host?'
complete -c vmfence -n '__vmfence_at host' -a configure -d 'Make or change the configuration'
complete -c vmfence -n '__vmfence_at host' -a daemon -d 'Run the daemon'
complete -c vmfence -n '__vmfence_at host' -a history -d 'Who fenced whom'
complete -c vmfence -n '__vmfence_at host' -a status -d 'What the running daemon does'
complete -c vmfence -n '__vmfence_at host' -a keygen -d 'Make or judge the shared key'
complete -c vmfence -n '__vmfence_at host' -a list -d 'The guests of this host'
complete -c vmfence -n '__vmfence_at host' -a setup -d 'Everything that a host needs'
complete -c vmfence -n '__vmfence_at cluster' -a add-device -d 'Create the stonith device'
complete -c vmfence -n '__vmfence_at cluster' -a agents -d 'The fence agents of this node'
complete -c vmfence -n '__vmfence_at cluster' -a check -d 'Would fencing work?'
complete -c vmfence -n '__vmfence_at cluster' -a describe -d 'The parameters of a fence agent'
complete -c vmfence -n '__vmfence_at cluster' -a devices -d 'The stonith devices'
complete -c vmfence -n '__vmfence_at cluster' -a fence -d 'Fence a node, and see that it happened'
complete -c vmfence -n '__vmfence_at cluster' -a history -d 'What the cluster fenced'
complete -c vmfence -n '__vmfence_at cluster' -a map -d 'Which guest each node is'
complete -c vmfence -n '__vmfence_at cluster' -a properties -d 'Cluster properties that matter to fencing'
complete -c vmfence -n '__vmfence_at cluster' -a prove -d 'Rehearse, and record that it works'
complete -c vmfence -n '__vmfence_at cluster' -a remove-device -d 'Remove a stonith device'
complete -c vmfence -n '__vmfence_at guest' -a check -d 'Could this guest fence?'
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

__vmfence_host check -s f -l config -r -F -d 'Configuration file'
__vmfence_host check -l strict -d 'A warning is a failure too'
__vmfence_host check -s q -l quiet -d 'Show warnings and errors alone'
__vmfence_host check -l only -x -a '(__vmfence_codes host)' -d 'Only this check'
__vmfence_host check -l skip -x -a '(__vmfence_codes host)' -d 'Not this check'
__vmfence_host check -l explain -x -a 'all (__vmfence_codes host)' -d 'Tell what a code means'
__vmfence_host check -l fix -d 'Mend what is safe to mend'
__vmfence_host check -l yes -d 'Do not ask before it is mended'
__vmfence_host check -l json -d 'As JSON'
__vmfence_host configure -s f -l config -r -F -d 'File to write'
__vmfence_host configure -l import -r -F -d 'Start from this file'
__vmfence_host configure -l from-scratch -d 'Start from nothing'
__vmfence_host configure -l print -d 'Write the result to standard output only'
__vmfence_host configure -l dry-run -d 'Show what would change'
__vmfence_host configure -l yes -d 'Ask nothing'
__vmfence_host configure -l listener -x -a 'multicast tcp vsock virtio serial' -d Listener
__vmfence_host configure -l address -x -d 'multicast: the group'
__vmfence_host configure -l port -x -d 'multicast: the UDP port'
__vmfence_host configure -l interface -x -a 'none (__vmfence_interfaces)' -d 'multicast: the bridge of the guests'
__vmfence_host configure -l tcp-address -x -d 'tcp: an address of this host'
__vmfence_host configure -l tcp-port -x -d 'tcp: the port'
__vmfence_host configure -l vsock-port -x -d 'vsock: the port'
__vmfence_host configure -l serial-uri -x -d 'serial: where the guests are'
__vmfence_host configure -l serial-path -r -F -d 'serial: folder of the sockets'
__vmfence_host configure -l serial-mode -x -a 'serial vmchannel virtio' -d 'serial: mode'
__vmfence_host configure -l serial-channel -x -d 'virtio: name of the ports'
__vmfence_host configure -l serial-guests -x -a 'all none (__vmfence_own_guests)' -d 'serial: who may fence each other'
__vmfence_host configure -l key-file -r -F -d 'Shared key'
__vmfence_host configure -l family -x -a 'ipv4 ipv6' -d 'Address family'
__vmfence_host configure -l hash -x -a 'none sha1 sha256 sha512' -d 'Weakest signature accepted'
__vmfence_host configure -l auth -x -a 'none sha1 sha256 sha512' -d 'Hash of the challenges'
__vmfence_host configure -l backend -x -a 'libvirt cpg' -d Backend
__vmfence_host configure -l uri -x -d 'Where libvirt has the guests'
__vmfence_host configure -l name-mode -x -a 'name uuid' -d 'cpg: how guests are known'
__vmfence_host configure -l fenced-command -r -F -d 'cpg: program that tells whether a host was fenced'
__vmfence_host configure -l unknown-guest -x -a 'fail ignore' -d 'cpg: what happens to requests for unknown guests'

__vmfence_host list -s f -l config -r -F -d 'Configuration of the daemon'
__vmfence_host list -l uri -x -d 'Ask libvirt there'
__vmfence_host list -l json -d 'As JSON'

__vmfence_host setup -l uri -x -d 'Libvirt to serve'
__vmfence_host setup -l interface -x -a '(__vmfence_interfaces)' -d 'Bridge of the guests'
__vmfence_host setup -l listener -x -a 'multicast tcp vsock virtio serial' -d 'How guests ask'
__vmfence_host setup -l guest -x -a '(__vmfence_own_guests)' -d 'Guest that gets a device and may ask'
__vmfence_host setup -l define -d 'Add the devices that guests lack'
__vmfence_host setup -l key-file -r -F -d 'Shared key'
__vmfence_host setup -s f -l config -r -F -d Configuration
__vmfence_host setup -l no-firewall -d 'Leave the firewall alone'
__vmfence_host setup -l no-service -d 'Neither install nor start the service'
__vmfence_host setup -l no-check -d 'Do not try whether it works'
__vmfence_host setup -l dry-run -d 'Only tell what would be done'
__vmfence_host setup -l yes -d 'Yes to the question of --define'
__vmfence_host setup -l json -d 'As JSON'

__vmfence_cluster add-device -x -a '(__vmfence_devices)' -d Device
__vmfence_cluster add-device -l map -x -a '(__vmfence_nodes):' -d 'Guest of a node'
__vmfence_cluster add-device -l node -x -a '(__vmfence_nodes)' -d 'Only this node'
__vmfence_cluster add-device -l agent -x -a 'fence_vmfence fence_xvm fence_virt' -d 'Fence agent'
__vmfence_cluster add-device -l static-list -d 'Write the list of nodes besides the map'
__vmfence_cluster add-device -l monitor-interval -x -d 'Time between two monitors'
__vmfence_cluster add-device -l monitor-timeout -x -d 'Time for a monitor'
__vmfence_cluster add-device -l offline -d 'Do not ask the host'
__vmfence_cluster add-device -l force -d 'Even if a node that is online gets a guest that is not running'
__vmfence_cluster add-device -l machine-uuid -x -d 'UUID of this node'
__vmfence_cluster add-device -l wait -x -d 'Wait so long until it is started'
__vmfence_cluster add-device -l no-wait -d 'Do not wait until it is started'
__vmfence_cluster add-device -l cib -r -F -d 'Work on this CIB file'
__vmfence_cluster add-device -l yes -d 'Do not ask'
__vmfence_cluster add-device -l dry-run -d 'Show what would be done'
__vmfence_cluster add-device -l json -d 'As JSON'
__vmfence_cluster add-device -l option -x -d 'Any option of the device'
__vmfence_cluster add-device -l debug -x -d 'Tell what is being done'
__vmfence_cluster add-device -l ip-family -x -a 'auto ipv4 ipv6' -d 'Address family of the group'
__vmfence_cluster add-device -l multicast-address -x -d 'Multicast group to ask'
__vmfence_cluster add-device -l ipaddr -x -d 'Ask the host at this address over TCP'
__vmfence_cluster add-device -l vsock -x -d 'Ask over a VM socket'
__vmfence_cluster add-device -l channel-address -x -d 'Ask through a VM channel'
__vmfence_cluster add-device -l serial-device -r -F -d 'Ask through a serial device or virtio port'
__vmfence_cluster add-device -l serial-params -x -d 'Parameters of the serial device'
__vmfence_cluster add-device -l ipport -x -d 'Port of the daemon'
__vmfence_cluster add-device -l retrans -x -d 'Tenths of a second between two packets'
__vmfence_cluster add-device -l hash -x -a 'none sha1 sha256 sha512' -d 'Hash that signs the request'
__vmfence_cluster add-device -l auth -x -a 'none sha1 sha256 sha512' -d 'Hash by which both sides prove the key'
__vmfence_cluster add-device -l key-file -r -F -d 'Shared key'
__vmfence_cluster add-device -l use-uuid -x -d 'Mark the guest as a UUID'
__vmfence_cluster add-device -l timeout -x -d 'Seconds to wait for the result'
__vmfence_cluster add-device -l delay -x -d 'Seconds to wait before off, on or reboot'
__vmfence_cluster add-device -l transport -x -a 'multicast tcp vsock serial virtio vmchannel auto' -d 'Way to the host'
__vmfence_cluster add-device -l pcmk-host-list -x -d 'Nodes that the device fences'
__vmfence_cluster add-device -l pcmk-host-check -x -a 'static-list dynamic-list status none' -d 'Finds its nodes'
__vmfence_cluster add-device -l pcmk-host-argument -x -d 'Parameter that names the guest'
__vmfence_cluster add-device -l pcmk-delay-base -x -d 'Delay before off and reboot'
__vmfence_cluster add-device -l pcmk-delay-max -x -d 'Random addition to the delay'
__vmfence_cluster add-device -l pcmk-action-limit -x -d 'How many actions run at once'
__vmfence_cluster add-device -l pcmk-reboot-action -x -d 'What the agent is told to do for reboot'
__vmfence_cluster add-device -l pcmk-reboot-timeout -x -d 'How long reboot may take'
__vmfence_cluster add-device -l pcmk-reboot-retries -x -d 'How often reboot is tried'
__vmfence_cluster add-device -l pcmk-off-action -x -d 'What the agent is told to do for off'
__vmfence_cluster add-device -l pcmk-off-timeout -x -d 'How long off may take'
__vmfence_cluster add-device -l pcmk-off-retries -x -d 'How often off is tried'
__vmfence_cluster add-device -l pcmk-on-action -x -d 'What the agent is told to do for on'
__vmfence_cluster add-device -l pcmk-on-timeout -x -d 'How long on may take'
__vmfence_cluster add-device -l pcmk-on-retries -x -d 'How often on is tried'
__vmfence_cluster add-device -l pcmk-list-action -x -d 'What the agent is told to do for list'
__vmfence_cluster add-device -l pcmk-list-timeout -x -d 'How long list may take'
__vmfence_cluster add-device -l pcmk-list-retries -x -d 'How often list is tried'
__vmfence_cluster add-device -l pcmk-monitor-action -x -d 'What the agent is told to do for monitor'
__vmfence_cluster add-device -l pcmk-monitor-timeout -x -d 'How long monitor may take'
__vmfence_cluster add-device -l pcmk-monitor-retries -x -d 'How often monitor is tried'
__vmfence_cluster add-device -l pcmk-status-action -x -d 'What the agent is told to do for status'
__vmfence_cluster add-device -l pcmk-status-timeout -x -d 'How long status may take'
__vmfence_cluster add-device -l pcmk-status-retries -x -d 'How often status is tried'

__vmfence_cluster remove-device -x -a '(__vmfence_devices)' -d Device
__vmfence_cluster remove-device -l force -d 'Even if nodes are left without fencing'
__vmfence_cluster remove-device -l cib -r -F -d 'Work on this CIB file'
__vmfence_cluster remove-device -l yes -d 'Do not ask'
__vmfence_cluster remove-device -l dry-run -d 'Show what would be done'
__vmfence_cluster remove-device -l json -d 'As JSON'

__vmfence_cluster map -l cib -r -F -d 'Read this CIB file'
__vmfence_cluster map -l json -d 'As JSON'

__vmfence_cluster devices -l cib -r -F -d 'Read this CIB file'
__vmfence_cluster devices -l json -d 'As JSON'

__vmfence_cluster agents -l json -d 'As JSON'

__vmfence_cluster describe -x -a '(__vmfence_installed_agents)' -d Agent
__vmfence_cluster describe -l json -d 'As JSON'

set -l is_set 'contains -- set (commandline -opc)'
complete -c vmfence -n "__vmfence_is cluster properties; and not $is_set" -a set -d 'Set properties, and read them back'
__vmfence_cluster properties -l cib -r -F -d 'CIB file'
__vmfence_cluster properties -l json -d 'As JSON'
set -l properties fencing-enabled stonith-enabled fencing-action stonith-action fencing-timeout stonith-timeout \
    fencing-max-attempts stonith-max-attempts fencing-watchdog-timeout stonith-watchdog-timeout fencing-reaction \
    fence-reaction concurrent-fencing startup-fencing priority-fencing-delay node-pending-timeout \
    fence-remote-without-quorum no-quorum-policy cluster-delay symmetric-cluster maintenance-mode
__vmfence_cluster "properties; and $is_set" -x -a "$properties=" -d Property
__vmfence_cluster "properties; and $is_set" -s y -l yes -d 'Do not ask'
__vmfence_cluster "properties; and $is_set" -l dry-run -d 'Show what would be done'

__vmfence_cluster check -l strict -d 'A warning is a failure too'
__vmfence_cluster check -s q -l quiet -d 'Show warnings and errors alone'
__vmfence_cluster check -l only -x -a '(__vmfence_codes cluster)' -d 'Only this check'
__vmfence_cluster check -l skip -x -a '(__vmfence_codes cluster)' -d 'Not this check'
__vmfence_cluster check -l explain -x -a 'all (__vmfence_codes cluster)' -d 'Tell what a code means'
__vmfence_cluster check -l cib -r -F -d 'Judge this CIB file'
__vmfence_cluster check -l record -r -F -d 'Record of rehearsals'
__vmfence_cluster check -l json -d 'As JSON'
__vmfence_cluster check -l fix -d 'Mend what is safe to mend'
__vmfence_cluster check -l yes -d 'Do not ask before it is mended'

__vmfence_cluster fence -x -a '(__vmfence_nodes)' -d Node
__vmfence_cluster fence -l off -d 'Leave it off'
__vmfence_cluster fence -l force -d 'Even this very node'
__vmfence_cluster fence -l timeout -x -d 'Wait so long for the cluster'
__vmfence_cluster fence -l yes -d 'Do not ask'
__vmfence_cluster fence -l dry-run -d 'Show what would be done'
__vmfence_cluster fence -l json -d 'As JSON'

__vmfence_cluster history -x -a '(__vmfence_nodes)' -d Node
__vmfence_cluster history -l json -d 'As JSON'

__vmfence_cluster prove -x -a '(__vmfence_nodes)' -d Node
__vmfence_cluster prove -l all -d 'Every node but this one'
__vmfence_cluster prove -l by-off -d 'Power off and on again'
__vmfence_cluster prove -l record -r -F -d 'Keep results'
__vmfence_cluster prove -l timeout -x -d 'Wait so long for a node to come back'
__vmfence_cluster prove -l yes -d 'Do not ask'
__vmfence_cluster prove -l dry-run -d 'Show what would be done'
__vmfence_cluster prove -l json -d 'As JSON'

__vmfence_list -s a -l multicast-address -x -d 'Multicast group to ask'
__vmfence_list -s i -l ip-family -x -a 'auto ipv4 ipv6' -d 'Address family of the group'
__vmfence_list -s T -l ipaddr -x -d 'Ask the daemon at this address by TCP'
__vmfence_list -s S -l vsock -d 'Ask over a VM socket'
__vmfence_list -s D -l serial-device -r -F -d 'Ask through a serial device or virtio port'
__vmfence_list -s P -l serial-params -x -d 'Parameters of the serial device'
__vmfence_list -s A -l channel-address -x -d 'Ask through a VM channel'
__vmfence_list -l transport -x -a 'multicast tcp vsock serial virtio vmchannel auto' -d 'How to reach the host'
__vmfence_list -s p -l ipport -x -d 'Port of the daemon'
__vmfence_list -s k -l key-file -r -F -d 'Shared key'
__vmfence_list -s c -l hash -x -a 'none sha1 sha256 sha512' -d 'Hash of the signature'
__vmfence_list -s C -l auth -x -a 'none sha1 sha256 sha512' -d 'Hash of the challenges'
__vmfence_list -s t -l timeout -x -d 'Seconds to wait'
__vmfence_list -l json -d 'As JSON'

__vmfence_guest check -l strict -d 'A warning is a failure too'
__vmfence_guest check -s q -l quiet -d 'Show warnings and errors alone'
__vmfence_guest check -l only -x -a '(__vmfence_codes guest)' -d 'Only this check'
__vmfence_guest check -l skip -x -a '(__vmfence_codes guest)' -d 'Not this check'
__vmfence_guest check -l explain -x -a 'all (__vmfence_codes guest)' -d 'Tell what a code means'
__vmfence_guest check -l fix -d 'Mend what is safe to mend'
__vmfence_guest check -l yes -d 'Do not ask before it is mended'
__vmfence_guest check -l watch -d 'Go on, and tell what changes'
__vmfence_guest check -l interval -x -d 'Pause between two checks'
__vmfence_guest check -l count -x -d 'End after so many checks'

complete -c fence_vmfence -f
complete -c fence_vmfence -s h -l help -d 'Show the options'
__vmfence_agent -s V -l version -d 'Show the version'
__vmfence_agent -s d -l debug -d 'Tell what is being done'
__vmfence_agent -s i -l ip_family -x -a 'auto ipv4 ipv6' -d 'Address family of the group'
__vmfence_agent -s a -l multicast_address -x -d 'Multicast group to ask'
__vmfence_agent -s T -l ipaddr -x -d 'Ask the host at this address over TCP'
__vmfence_agent -s S -l vsock -d 'Ask over a VM socket'
__vmfence_agent -s A -l channel_address -x -d 'Ask through a VM channel'
__vmfence_agent -s D -l serial_device -r -F -d 'Ask through a serial device or virtio port'
__vmfence_agent -s P -l serial_params -x -d 'Parameters of the serial device'
set -l transports multicast tcp vsock serial virtio vmchannel auto
__vmfence_agent -l transport -x -a "$transports" -d 'How to reach the host'
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
