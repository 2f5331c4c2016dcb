"""The experiments of the documents that patchclamp grew from, made of its public API alone."""
