"""The supervisor of one attempt: a small process of its own that outlives the portal.

It is started as a package named `shim` by a bare interpreter, without site-packages, so everything here is standard
library only, imports its neighbours relatively, and keeps its imports few: each running job pays for them in memory.
The portal reads what it writes through `files`, `locks` and `records`, and nothing else of it.
"""
