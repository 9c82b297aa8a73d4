"""The suite asks: does the model still call the right tool with the right arguments?"""
