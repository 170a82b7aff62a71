"""The console: pages of this machine for whoever holds a master device."""
