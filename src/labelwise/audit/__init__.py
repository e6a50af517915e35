"""From a finished run to ranked wrong labels and a report."""
