"""The XML by which Pacemaker and pcs learn what the agent can do, from the table.

Light module (loaded for every fence action: standard library only, so the XML is put together as text).
Shape and order of elements: metadata.rng of fence-agents.  Under the names fence_xvm and fence_virt it says
what those of 4.12.1 say, in other words, so that a device made for them needs no change.
"""

from __future__ import annotations

from vmfence.agent.options import Option, accepted, imitates
from vmfence.agent.values import Cid, Level, actions

_DESCRIPTION = (
    "{} fences KVM guests of libvirt hosts.  It asks the fencing daemon of the host (vmfence or fence_virtd) "
    "and reports success only when the host has.\n\n"
    "Whether reboot starts a guest that was off is up to the host: fence_virtd leaves it off."
)


def metadata(program: str) -> str:
    """Return the metadata of *program* as a whole XML document."""
    return "\n".join((*_head(program), *_parameters(program), *_actions(program), "</resource-agent>", ""))


def _head(program: str) -> tuple[str, ...]:
    name = _escaped(program)
    return (
        '<?xml version="1.0" ?>',
        f'<resource-agent name="{name}" shortdesc="Fencing of KVM guests through their libvirt host">',
        f"<longdesc>{_DESCRIPTION.format(name)}</longdesc>",
        "<vendor-url>https://libvirt.org</vendor-url>",
    )


def _parameters(program: str) -> tuple[str, ...]:
    return ("<parameters>", *(_parameter(option, program) for option in accepted(program)), "</parameters>")


def _parameter(option: Option, program: str) -> str:
    marks = f' obsoletes="{option.obsoletes}"' if option.obsoletes else ""
    marks += ' deprecated="1"' if option.deprecated else ""
    return "\n".join(
        (
            f'\t<parameter name="{option.name}" unique="0" required="{int(option.required)}"{marks}>',
            f'\t\t<getopt mixed="{_getopt(option, program)}" />',
            _content(option, program),
            f'\t\t<shortdesc lang="en">{_escaped(option.explained(program))}</shortdesc>',
            "\t</parameter>",
        )
    )


def _getopt(option: Option, program: str) -> str:
    short = f"-{option.letter}" if option.letter else ""
    if imitates(program):
        return short
    long = f"--{option.name}" + (f"=[{option.value}]" if option.value else "")
    return f"{short}, {long}" if short else long


def _content(option: Option, program: str) -> str:
    kind = _imitated_type(option) if imitates(program) else option.kind.content
    default = option.shown if imitates(program) else option.default
    start = f'\t\t<content type="{kind}"' + (f' default="{_escaped(default)}"' if default else "")
    if kind != "select":
        return f"{start} />"
    choices = "".join(f'\t\t\t<option value="{word}" />\n' for word in option.words(program))
    return f"{start}>\n{choices}\t\t</content>"


def _imitated_type(option: Option) -> str:
    """Return the type that 4.12.1 gives: string for all but debug and vsock."""
    return option.kind.content if isinstance(option.kind, (Level, Cid)) else "string"


def _actions(program: str) -> tuple[str, ...]:
    names = [name for name in actions() if name != "null" or imitates(program)]
    return ("<actions>", *(f'\t<action name="{name}" />' for name in names), "</actions>")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
