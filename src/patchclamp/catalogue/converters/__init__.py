"""One file an asset: from the package as it is shipped to plain files that any tool reads."""
