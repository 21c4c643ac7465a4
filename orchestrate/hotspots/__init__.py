"""Hot hosts, moves off them, and room for new VMs."""
