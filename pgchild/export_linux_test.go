package pgchild

// ForceWatchdog makes Linux behave like systems without a parent-death signal.
func ForceWatchdog() { needWatchdog = true }
