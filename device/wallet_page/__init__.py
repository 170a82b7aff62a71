"""The page on which the user's own wallet meets this device: chosen, asked, and believed nothing."""
