"""What the engine runs on.

``child``     child processes that answer requests
``context``   what a use case gets from its caller: time, progress, log, cancellation
``durable``   writes that survive a crash
``folders``   folders of any depth
``locks``     file locks
``outgoing``  HTTP requests to webhooks and dead man's switches
``processes`` identities of processes, and how children end
``space``     whether a disk has room
``threads``   work done ahead by threads
``wording``   numbers for people
"""
