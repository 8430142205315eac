"""What plugin authors implement. Import the module you need; `detector` is the only one that imports torch."""
