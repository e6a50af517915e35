"""One file for each kind of data; `labelwise.data.load.load` finds them by itself."""
