"""All checks of a guest, in the order in which a request travels: the first that fails is the cause.  Pure."""

from __future__ import annotations

from vmfence.guest import checks_conversation, checks_here, checks_hosts, checks_trial

CHECKS = (*checks_here.CHECKS, *checks_trial.CHECKS, *checks_conversation.CHECKS, *checks_hosts.CHECKS)
