# bash completion of vmfence and fence_vmfence.  Static words come from here, not from starting vmfence.  Names of guests
# are asked for, for two seconds at most: by "vmfence list" in a guest, and only where the key can be read; by "vmfence
# host list" on a host.

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
        -k | --key_file | -D | --serial_device) _vmfence_offer_files "$cur" ;;
        -n | -H | --plug | --port | --domain) _vmfence_offer_guests "$cur" ;;
        -a | -T | -A | -P | -p | -r | -t | -w) ;;
        --multicast_address | --ipaddr | --channel_address | --serial_params | --ipport | --retrans) ;;
        --timeout | --delay) ;;
        *)
            _vmfence_offer "$cur" -d --debug -i --ip_family -a --multicast_address -T --ipaddr -S --vsock \
                -A --channel_address -D --serial_device -P --serial_params -p --ipport -r --retrans -c --hash \
                -C --auth -k --key_file -n --plug -H --port --domain -u --use_uuid -o --action -t --timeout \
                -w --delay -h --help -V --version
            ;;
    esac
}

_vmfence_list() {
    local cur=$1 prev=$2
    case $prev in
        -c | -C | --hash | --auth) _vmfence_offer "$cur" none sha1 sha256 sha512 ;;
        -i | --ip-family) _vmfence_offer "$cur" auto ipv4 ipv6 ;;
        -k | --key-file) _vmfence_offer_files "$cur" ;;
        -a | -T | -p | -t | --multicast-address | --ipaddr | --ipport | --timeout) ;;
        *)
            _vmfence_offer "$cur" -a --multicast-address -i --ip-family -T --ipaddr -p --ipport -k --key-file \
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
        -f | --config | --import | --key-file | --serial-path) _vmfence_offer_files "$cur" ;;
        --listener) _vmfence_offer "$cur" multicast tcp vsock serial ;;
        --interface)
            _vmfence_offer "$cur" none
            _vmfence_offer_interfaces "$cur"
            ;;
        --serial-mode) _vmfence_offer "$cur" serial vmchannel ;;
        --family) _vmfence_offer "$cur" ipv4 ipv6 ;;
        --hash | --auth) _vmfence_offer "$cur" none sha1 sha256 sha512 ;;
        --backend) _vmfence_offer "$cur" libvirt cpg ;;
        --name-mode) _vmfence_offer "$cur" name uuid ;;
        --address | --port | --tcp-address | --tcp-port | --vsock-port | --serial-uri | --uri) ;;
        *)
            _vmfence_offer "$cur" -f --config --import --from-scratch --print --dry-run --yes --listener --address \
                --port --interface --tcp-address --tcp-port --vsock-port --serial-uri --serial-path --serial-mode \
                --key-file --family --hash --auth --backend --uri --name-mode -h --help
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
        --listener) _vmfence_offer "$cur" multicast tcp ;;
        --interface) _vmfence_offer_interfaces "$cur" ;;
        --uri) ;;
        *)
            _vmfence_offer "$cur" --uri --interface --listener --key-file -f --config --no-firewall --no-service \
                --no-check --dry-run --yes --json -h --help
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
        '') _vmfence_offer "$cur" agent demo guest host list -h --help --version ;;
        host) _vmfence_offer "$cur" configure daemon history keygen list setup status -h --help ;;
        guest) _vmfence_offer "$cur" list -h --help ;;
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
