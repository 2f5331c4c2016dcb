"""One page a result kind: self-contained HTML that works offline."""
