# bash completion of vmfence and fence_vmfence.  Static words come from here, not from starting vmfence.  Names of guests
# are asked for, for two seconds at most: by "vmfence list" in a guest, and only where the key can be read; by "vmfence
# host list" on a host.  So are nodes and devices of the cluster (cibadmin), agents (stonith_admin) and codes (vmfence).

# Offer those of the words after $1 that begin with $1.
_vmfence_offer() {
    local cur=$1 word
    shift
    for word; do
        [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
    done
}

_vmfence_offer_files() {
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

# Offer a name of others if it begins with $1, quoted, and not if it cannot be shown.
_vmfence_offer_name() {
    local cur=$1 name=$2
    [[ $name != "$cur"* || $name == *[![:print:]]* ]] && return
    printf -v name %q "$name"
    COMPREPLY+=("$name")
}

# Offer the guests of this host.
_vmfence_offer_own_guests() {
    local cur=$1 index value line where=() uuid='[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'
    for ((index = 1; index < COMP_CWORD; index++)); do
        value=${COMP_WORDS[index + 1]}
        [[ $value == = ]] && value=${COMP_WORDS[index + 2]}
        [[ ${COMP_WORDS[index]} == @(-f|--config) ]] && where=(-f "$value")
    done
    while IFS= read -r line; do
        [[ $line =~ ^(.*[^ ])\ +$uuid ]] && _vmfence_offer_name "$cur" "${BASH_REMATCH[1]}"
    done < <(timeout 2 vmfence host list "${where[@]}" 2>/dev/null)
}

# Offer the interfaces of this host, without the ports of bridges: nothing is heard there.
_vmfence_offer_interfaces() {
    local cur=$1 path
    for path in /sys/class/net/*/; do
        [[ -e $path && ! -e ${path}master ]] || continue
        path=${path%/}
        _vmfence_offer_name "$cur" "${path##*/}"
    done
}

# Print a part of the cluster's configuration, or of that in the file which --cib names; nothing where there is none.
_vmfence_cib() {
    local index value file=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        value=${COMP_WORDS[index + 1]}
        [[ $value == = ]] && value=${COMP_WORDS[index + 2]}
        [[ ${COMP_WORDS[index]} == --cib ]] && file=(CIB_file="$value")
    done
    env "${file[@]}" timeout 2 cibadmin -Q -o "$1" 2>/dev/null
}

# Offer the nodes of the cluster, each with $2 behind it.
_vmfence_offer_nodes() {
    local cur=$1 line pattern='<node .*uname="([^"&]*)"'
    while IFS= read -r line; do
        [[ $line =~ $pattern ]] && _vmfence_offer_name "$cur" "${BASH_REMATCH[1]}$2"
    done < <(_vmfence_cib nodes)
    [[ -z $2 ]] || compopt -o nospace 2>/dev/null
}

_vmfence_offer_devices() {
    local cur=$1 line pattern='<primitive (.* )?id="([^"&]*)"'
    while IFS= read -r line; do
        [[ $line == *' class="stonith"'* && $line =~ $pattern ]] && _vmfence_offer_name "$cur" "${BASH_REMATCH[2]}"
    done < <(_vmfence_cib resources)
}

_vmfence_offer_installed_agents() {
    local cur=$1 line
    while IFS= read -r line; do
        [[ $line == *' '* ]] || _vmfence_offer_name "$cur" "$line"
    done < <(timeout 2 stonith_admin -I 2>/dev/null)
}

# Offer the codes of "cluster check" or "host check".
_vmfence_offer_codes() {
    local cur=$1 whose=$2 line
    while IFS= read -r line; do
        _vmfence_offer_name "$cur" "${line%%:*}"
    done < <(timeout 2 vmfence "$whose" check --explain all 2>/dev/null)
}

# Offer guest names.
_vmfence_offer_guests() {
    local cur=$1 key=/etc/cluster/fence_xvm.key index value line name where=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        value=${COMP_WORDS[index + 1]}
        [[ $value == = ]] && value=${COMP_WORDS[index + 2]}
        case ${COMP_WORDS[index]} in
            -k | --key_file) key=$value ;;
            -T | --ipaddr) where+=(-T "$value") ;;
            -a | --multicast_address) where+=(-a "$value") ;;
            -p | --ipport) where+=(-p "$value") ;;
        esac
    done
    [[ -r $key ]] || return
    while IFS= read -r line; do
        name=${line% * *}
        name=${name%"${name##*[! ]}"}
        _vmfence_offer_name "$cur" "$name"
    done < <(timeout 2 vmfence list -t 1 -k "$key" "${where[@]}" 2>/dev/null)
}

_vmfence_agent() {
    local cur=$1 prev=$2
    case $prev in
        -o | --action)
            _vmfence_offer "$cur" on off reboot status monitor list list-status metadata validate-all
            ;;
        -c | -C | --hash | --auth) _vmfence_offer "$cur" none sha1 sha256 sha512 ;;
        -i | --ip_family) _vmfence_offer "$cur" auto ipv4 ipv6 ;;
        --transport) _vmfence_offer "$cur" multicast tcp vsock serial virtio vmchannel auto ;;
        -k | --key_file | -D | --serial_device) _vmfence_offer_files "$cur" ;;
        -n | -H | --plug | --port | --domain) _vmfence_offer_guests "$cur" ;;
        -a | -T | -A | -P | -p | -r | -t | -w) ;;
        --multicast_address | --ipaddr | --channel_address | --serial_params | --ipport | --retrans) ;;
        --timeout | --delay) ;;
        *)
            _vmfence_offer "$cur" -d --debug -i --ip_family -a --multicast_address -T --ipaddr -S --vsock \
                -A --channel_address -D --serial_device -P --serial_params -p --ipport -r --retrans -c --hash \
                -C --auth -k --key_file -n --plug -H --port --domain -u --use_uuid -o --action -t --timeout \
                -w --delay --transport -h --help -V --version
            ;;
    esac
}

_vmfence_list() {
    local cur=$1 prev=$2
    case $prev in
        -c | -C | --hash | --auth) _vmfence_offer "$cur" none sha1 sha256 sha512 ;;
        -i | --ip-family) _vmfence_offer "$cur" auto ipv4 ipv6 ;;
        -k | --key-file) _vmfence_offer_files "$cur" ;;
        --transport) _vmfence_offer "$cur" multicast tcp vsock serial virtio vmchannel auto ;;
        -D | --serial-device) _vmfence_offer_files "$cur" ;;
        -a | -T | -p | -t | --multicast-address | --ipaddr | --ipport | --timeout) ;;
        -A | -P | --channel-address | --serial-params) ;;
        *)
            _vmfence_offer "$cur" -a --multicast-address -i --ip-family -T --ipaddr -S --vsock -D --serial-device \
                -P --serial-params -A --channel-address --transport -p --ipport -k --key-file \
                -c --hash -C --auth -t --timeout --json -h --help
            ;;
    esac
}

_vmfence_daemon() {
    local cur=$1 prev=$2
    case $prev in
        -f | --config | -p | --pid-file) _vmfence_offer_files "$cur" ;;
        -d | --debug) ;;
        *)
            _vmfence_offer "$cur" -f --config -F --foreground -d --debug -w --wait-for-init -p --pid-file -h --help
            ;;
    esac
}

_vmfence_status() {
    local cur=$1 prev=$2
    case $prev in
        -f | --config | -s | --socket) _vmfence_offer_files "$cur" ;;
        *) _vmfence_offer "$cur" -f --config -s --socket --json -h --help ;;
    esac
}

_vmfence_history() {
    local cur=$1 prev=$2
    case $prev in
        -f | --config) _vmfence_offer_files "$cur" ;;
        -H | --guest) _vmfence_offer_own_guests "$cur" ;;
        --since) ;;
        *) _vmfence_offer "$cur" --since -H --guest --follow -f --config --json -h --help ;;
    esac
}

_vmfence_keygen() {
    local cur=$1 prev=$2
    case $prev in
        --bytes) ;;
        *)
            if [[ $cur == -* ]]; then
                _vmfence_offer "$cur" --bytes --force --check --json -h --help
            else
                _vmfence_offer_files "$cur"
            fi
            ;;
    esac
}

_vmfence_configure() {
    local cur=$1 prev=$2
    case $prev in
        -f | --config | --import | --key-file | --serial-path | --fenced-command) _vmfence_offer_files "$cur" ;;
        --listener) _vmfence_offer "$cur" multicast tcp vsock virtio serial ;;
        --interface)
            _vmfence_offer "$cur" none
            _vmfence_offer_interfaces "$cur"
            ;;
        --serial-mode) _vmfence_offer "$cur" serial vmchannel virtio ;;
        --serial-guests)
            _vmfence_offer "$cur" all none
            _vmfence_offer_own_guests "$cur"
            ;;
        --family) _vmfence_offer "$cur" ipv4 ipv6 ;;
        --hash | --auth) _vmfence_offer "$cur" none sha1 sha256 sha512 ;;
        --backend) _vmfence_offer "$cur" libvirt cpg ;;
        --name-mode) _vmfence_offer "$cur" name uuid ;;
        --unknown-guest) _vmfence_offer "$cur" fail ignore ;;
        --address | --port | --tcp-address | --tcp-port | --vsock-port | --serial-uri | --serial-channel | --uri) ;;
        *)
            _vmfence_offer "$cur" -f --config --import --from-scratch --print --dry-run --yes --listener --address \
                --port --interface --tcp-address --tcp-port --vsock-port --serial-uri --serial-path --serial-mode \
                --serial-channel --serial-guests --key-file --family --hash --auth --backend --uri --name-mode \
                --fenced-command --unknown-guest -h --help
            ;;
    esac
}

_vmfence_host_list() {
    local cur=$1 prev=$2
    case $prev in
        -f | --config) _vmfence_offer_files "$cur" ;;
        --uri) ;;
        *) _vmfence_offer "$cur" -f --config --uri --json -h --help ;;
    esac
}

_vmfence_setup() {
    local cur=$1 prev=$2
    case $prev in
        -f | --config | --key-file) _vmfence_offer_files "$cur" ;;
        --listener) _vmfence_offer "$cur" multicast tcp vsock virtio serial ;;
        --guest) _vmfence_offer_own_guests "$cur" ;;
        --interface) _vmfence_offer_interfaces "$cur" ;;
        --uri) ;;
        *)
            _vmfence_offer "$cur" --uri --interface --listener --guest --define --key-file -f --config --no-firewall --no-service \
                --no-check --dry-run --yes --json -h --help
            ;;
    esac
}

_vmfence_add_device() {
    local cur=$1 prev=$2
    [[ $cur == : || $prev == : ]] && return # the guest of a pair: bash cuts at : too
    case $prev in
        --map) _vmfence_offer_nodes "$cur" : ;;
        --node) _vmfence_offer_nodes "$cur" ;;
        --agent) _vmfence_offer "$cur" fence_vmfence fence_xvm fence_virt ;;
        --hash | --auth) _vmfence_offer "$cur" none sha1 sha256 sha512 ;;
        --ip-family) _vmfence_offer "$cur" auto ipv4 ipv6 ;;
        --transport) _vmfence_offer "$cur" multicast tcp vsock serial virtio vmchannel auto ;;
        --pcmk-host-check) _vmfence_offer "$cur" static-list dynamic-list status none ;;
        --cib | --key-file | --serial-device) _vmfence_offer_files "$cur" ;;
        --monitor-* | --machine-uuid | --wait | --option | --debug | --multicast-address | --ipaddr | --vsock) ;;
        --channel-address | --serial-params | --ipport | --retrans | --use-uuid | --timeout | --delay | --pcmk-*) ;;
        *)
            if [[ $cur != -* ]]; then
                _vmfence_offer_devices "$cur"
                return
            fi
            _vmfence_offer "$cur" --map --node --agent --static-list --monitor-interval --monitor-timeout --offline \
                --force --machine-uuid --wait --no-wait --cib --yes --dry-run --json --option --debug --ip-family \
                --multicast-address --ipaddr --vsock --channel-address --serial-device --serial-params --ipport \
                --retrans --hash --auth --key-file --use-uuid --timeout --delay --transport --pcmk-host-list \
                --pcmk-host-check --pcmk-host-argument --pcmk-delay-base --pcmk-delay-max --pcmk-action-limit \
                --pcmk-{reboot,off,on,list,monitor,status}-{action,timeout,retries} -h --help
            ;;
    esac
}

_vmfence_remove_device() {
    local cur=$1 prev=$2
    case $prev in
        --cib) _vmfence_offer_files "$cur" ;;
        *)
            _vmfence_offer "$cur" --force --cib --yes --dry-run --json -h --help
            [[ $cur == -* ]] || _vmfence_offer_devices "$cur"
            ;;
    esac
}

# The commands that read the CIB alone.
_vmfence_cib_reader() {
    local cur=$1 prev=$2
    case $prev in
        --cib) _vmfence_offer_files "$cur" ;;
        *) _vmfence_offer "$cur" --cib --json -h --help ;;
    esac
}

_vmfence_describe() {
    local cur=$1
    if [[ $cur == -* ]]; then
        _vmfence_offer "$cur" --json -h --help
    else
        _vmfence_offer_installed_agents "$cur"
    fi
}

_vmfence_properties_set() {
    local cur=$1 prev=$2
    if [[ $prev == --cib ]]; then
        _vmfence_offer_files "$cur"
    elif [[ $cur == -* ]]; then
        _vmfence_offer "$cur" --cib -y --yes --dry-run --json -h --help
    elif [[ ${COMP_WORDS[COMP_CWORD]} != = && ${COMP_WORDS[COMP_CWORD - 1]} != = ]]; then
        local names=(
            fencing-enabled stonith-enabled fencing-action stonith-action fencing-timeout stonith-timeout
            fencing-max-attempts stonith-max-attempts fencing-watchdog-timeout stonith-watchdog-timeout fencing-reaction
            fence-reaction concurrent-fencing startup-fencing priority-fencing-delay node-pending-timeout
            fence-remote-without-quorum no-quorum-policy cluster-delay symmetric-cluster maintenance-mode
        )
        compopt -o nospace 2>/dev/null
        _vmfence_offer "$cur" "${names[@]/%/=}"
    fi
}

_vmfence_properties() {
    local cur=$1 prev=$2
    if [[ " ${COMP_WORDS[*]:3:COMP_CWORD - 3} " == *' set '* ]]; then
        _vmfence_properties_set "$cur" "$prev"
        return
    fi
    _vmfence_cib_reader "$cur" "$prev"
    [[ $cur == -* || $prev == --cib ]] || _vmfence_offer "$cur" set
}

# "check" of host or cluster, with the options that only that one has: _vmfence_check CUR PREV WHOSE OPTION...
_vmfence_check() {
    local cur=$1 prev=$2 whose=$3
    case $prev in
        --only | --skip) _vmfence_offer_codes "$cur" "$whose" ;;
        --explain)
            _vmfence_offer "$cur" all
            _vmfence_offer_codes "$cur" "$whose"
            ;;
        -f | --config | --cib | --record) _vmfence_offer_files "$cur" ;;
        *)
            _vmfence_offer "$cur" --strict --json -q --quiet --only --skip --explain --fix --yes "${@:4}" -h --help
            ;;
    esac
}

_vmfence_fence() {
    local cur=$1 prev=$2
    case $prev in
        --timeout) ;;
        *)
            if [[ $cur == -* ]]; then
                _vmfence_offer "$cur" --off --force --timeout --yes --dry-run --json -h --help
            else
                _vmfence_offer_nodes "$cur"
            fi
            ;;
    esac
}

_vmfence_cluster_history() {
    local cur=$1
    if [[ $cur == -* ]]; then
        _vmfence_offer "$cur" --json -h --help
    else
        _vmfence_offer_nodes "$cur"
    fi
}

_vmfence_prove() {
    local cur=$1 prev=$2
    case $prev in
        --record) _vmfence_offer_files "$cur" ;;
        --timeout) ;;
        *)
            if [[ $cur == -* ]]; then
                _vmfence_offer "$cur" --all --by-off --record --timeout --yes --dry-run --json -h --help
            else
                _vmfence_offer_nodes "$cur"
            fi
            ;;
    esac
}

# What "guest list" asks with, and what every check has.
_vmfence_guest_check() {
    local cur=$1 prev=$2
    case $prev in
        -[aACcDikpPTt] | --hash | --auth | --ip-family | --key-file | --transport | --serial-device) ;&
        --multicast-address | --ipaddr | --ipport | --timeout | --channel-address | --serial-params)
            _vmfence_list "$cur" "$prev"
            ;;
        --interval | --count) ;;
        *)
            _vmfence_check "$cur" "$prev" guest -a --multicast-address -i --ip-family -T --ipaddr -S --vsock \
                -D --serial-device -P --serial-params -A --channel-address --transport -p --ipport -k --key-file \
                -c --hash -C --auth -t --timeout --watch --interval --count
            ;;
    esac
}

_vmfence() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} path
    COMPREPLY=()
    # bash cuts --option=value into three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if [[ ${1##*/} == fence_vmfence ]]; then
        _vmfence_agent "$cur" "$prev"
        return
    fi
    path="${COMP_WORDS[*]:1:COMP_CWORD - 1}"
    case $path in
        '') _vmfence_offer "$cur" agent cluster demo guest host list -h --help --version ;;
        host) _vmfence_offer "$cur" check configure daemon history keygen list setup status -h --help ;;
        guest) _vmfence_offer "$cur" check list -h --help ;;
        'guest check' | 'guest check '*) _vmfence_guest_check "$cur" "$prev" ;;
        cluster)
            _vmfence_offer "$cur" add-device agents check describe devices fence history map properties prove \
                remove-device -h --help
            ;;
        'cluster add-device' | 'cluster add-device '*) _vmfence_add_device "$cur" "$prev" ;;
        'cluster remove-device' | 'cluster remove-device '*) _vmfence_remove_device "$cur" "$prev" ;;
        'cluster map' | 'cluster map '*) _vmfence_cib_reader "$cur" "$prev" ;;
        'cluster devices' | 'cluster devices '*) _vmfence_cib_reader "$cur" "$prev" ;;
        'cluster agents' | 'cluster agents '*) _vmfence_offer "$cur" --json -h --help ;;
        'cluster describe' | 'cluster describe '*) _vmfence_describe "$cur" ;;
        'cluster properties' | 'cluster properties '*) _vmfence_properties "$cur" "$prev" ;;
        'cluster check' | 'cluster check '*) _vmfence_check "$cur" "$prev" cluster --cib --record ;;
        'cluster fence' | 'cluster fence '*) _vmfence_fence "$cur" "$prev" ;;
        'cluster history' | 'cluster history '*) _vmfence_cluster_history "$cur" ;;
        'cluster prove' | 'cluster prove '*) _vmfence_prove "$cur" "$prev" ;;
        'host check' | 'host check '*) _vmfence_check "$cur" "$prev" host -f --config ;;
        'host configure' | 'host configure '*) _vmfence_configure "$cur" "$prev" ;;
        'host list' | 'host list '*) _vmfence_host_list "$cur" "$prev" ;;
        'host setup' | 'host setup '*) _vmfence_setup "$cur" "$prev" ;;
        'host daemon' | 'host daemon '*) _vmfence_daemon "$cur" "$prev" ;;
        'host status' | 'host status '*) _vmfence_status "$cur" "$prev" ;;
        'host history' | 'host history '*) _vmfence_history "$cur" "$prev" ;;
        'host keygen' | 'host keygen '*) _vmfence_keygen "$cur" "$prev" ;;
        list | 'list '* | 'guest list' | 'guest list '*) _vmfence_list "$cur" "$prev" ;;
        agent | 'agent '*) _vmfence_agent "$cur" "$prev" ;;
        demo) _vmfence_offer "$cur" -h --help ;;
    esac
}

complete -F _vmfence vmfence fence_vmfence
