"""First binds of identities that are no wallet: what names the person is proved first, at the broker or elsewhere."""
