"""What a device must do, and the devices that do it; the one file where anything crosses between them."""
