"""Two real hypervisors and their guests on one machine: what the tests need to see our programs meet the real thing.

A `Rig` is a LAN in a network namespace, two libvirt daemons in namespaces of their own (host name, addresses, sockets,
UUID), QEMU guests under emulation that start the real agent when they boot, and the real aggregator.

    root namespace                      LAN namespace               namespace of a host
    pytest, aggregator --- veth pair --- bridge --- veth pair --- bridge --- taps of its guests
    10.66.N.1                                                      10.66.N.11, .12

The aggregator stays where pytest is and listens on the LAN through a link of its own. So its admin door on loopback,
unix sockets of the daemons, `qemu+tcp://` and the guests are all within reach of the tests as they are.

Everything is named after a number N that no other run on the machine has. Every process has a parent that ends it when
pytest ends, however that ends; namespaces that a killed run left behind go at the next start.
"""
