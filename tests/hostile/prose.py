# tries: is no program -> syntax_error
I am sorry, but I cannot solve this.
