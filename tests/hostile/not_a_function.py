# tries: binds the name to what is no function -> no_entry_point
solve = 6
