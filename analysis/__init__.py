"""What looks at nets and images outside of a training: why a net does not learn, what it looks at, where it errs."""
