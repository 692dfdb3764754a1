"""A deterministic simulation of the mesh's control logic: virtual time, one seed, any fault.

The policies are the runtime's own (balancing, roster, shards, slots, turns, history); what talks
to databases and networks is modelled: a store with the fencing rules of the task repository,
messages that take time and get lost, processes that are killed, paused and drained.
"""
