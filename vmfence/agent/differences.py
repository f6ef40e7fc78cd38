"""Where the agent differs from fence_xvm and fence_virt 4.12.1 on purpose.

Not loaded when the agent runs: for the manual, and for the tests against captured outputs, which must name
the difference wherever they expect one.  D numbers: defects of the reference, project specification.
"""

from __future__ import annotations

DIFFERENCES = {
    "unknown-option": "an unknown option or one without its value is an error, exit 1, not help and 0 (D9)",
    "arguments": "arguments that are no options are an error: a forgotten dash must not fence by default",
    "help": "the help text is ours and not shown on errors; a wrong value beside the help option is an error",
    "one-cause": "a missing guest is not reported beside other errors",
    "version": "the numbers are ours",
    "streams": "errors go to standard error, as in releases after 4.12.1, on lines that begin with error:",
    "blanks": "on stdin, a value is all that follows the =, also blanks inside and what looks like a comment; blanks "
    "around it and around the name, and a pair of quotes, are dropped (D11)",
    "no-value": "on stdin, a name without value is an error, but for debug, use_uuid, vsock, and so is an empty "
    "value, but for debug, use_uuid (D11)",
    "length": "on stdin, lines may have any length, all of them at most 64 KiB; a zero byte is an error",
    "unknown-name": "on stdin, Pacemaker's own names get no warning; indented comments are comments",
    "names": "- and _ are the same in names; every name is a long option too (--ip-family)",
    "numbers": "numbers must be whole and in range, followed by nothing but the s of seconds; no octal",
    "addresses": "addresses must be literal and of the right family, groups must be multicast",
    "timeout": "15 s for status, monitor and list, if not given",
    "key": "no key, no request (D3)",
    "results": "an answer that does not fit the action is a failure (D26, D34); no exit code 255",
    "digests": "challenges, answers and digests are never printed (D35)",
    "call-back": "another port is used when the call-back port is taken, so several agents run at once (D25)",
    "keeps-asking": "by multicast, a call-back that cannot prove the key or hangs up is told when the time is over, as "
    "another host may still answer (D24)",
    "refused": "a connection that the host refuses is told with its true reason, on a line of its own (D36)",
    "null": "null fails without asking a host",
    "validate-key": "fence_vmfence validates the key too, if one is needed, also at the default path",
    "validate-guest": "fence_vmfence validates without a guest: a device with pcmk_host_map has none",
}
