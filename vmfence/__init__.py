"""vmfence: fencing for Pacemaker clusters of libvirt guests."""

__version__ = "0.1.0"
