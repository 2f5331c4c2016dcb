"""What every other package stands on: errors, files, progress, results, and the registry that shows them."""
