"""How the lattice's speed is measured: every figure is of a case, and every case runs in a process of its own.

Contract: `cases` says what can be measured, `workload` and `rivals` build it, `worker` is the process that holds it, `timing`
starts such processes and takes turns between them, `operations` counts. The sections of a report are `headline`, `versus` and
`growth`; `report`, `compare` and `plots` only read what these return. A process each means that peak memory is that of the case
alone, that cases may differ in what a process decides at its start (huge pages, cores), and that all of them still take turns.
"""
