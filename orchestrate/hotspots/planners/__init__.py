"""Which VMs should move where: rules behind one interface, all of them pure and the same for the same situation."""
