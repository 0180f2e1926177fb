"""Python for models: code of strangers, run where it can do no harm.

sandbox = Sandbox()
await sandbox.start()
toolbox = Toolbox([python_tool(sandbox)])

Each session has a process, forked from a warm parent that has never seen a secret. Before it sees any code the kernel
confines it: Landlock and seccomp, namespaces where the host gives them, a user id of its own where the server is root,
limits of memory, CPU time and file sizes, no privileges, no network, no threads, no other processes. RestrictedPython
and an audit hook are the inner layers: they refuse in words that a model understands, and are not what holds.

Covered: reading, writing or even seeing files other than the session's, talking to anybody but the server over one
socket, the server's environment and memory, signals, other sessions, running on after a call or after the server, using
up memory, CPU, disk or the log. What comes from a worker is checked as if an attacker had written it.

Not covered: bugs of the kernel itself (a hostile multi-tenant service puts a virtual machine or gVisor around it), side
channels between sessions on one CPU, and the disk to the last byte: a folder can be over its limit by what is written
in some hundredths of a second, and a process can hold deleted files until it ends, as many as it may have open.
"""

from tools.python.plan import Layers
from tools.python.sandbox import Execution, ExtractionFailed, Limits, Sandbox
from tools.python.tool import python_tool
from tools.python.workers import Unusable

__all__ = ["Execution", "ExtractionFailed", "Layers", "Limits", "Sandbox", "Unusable", "python_tool"]
