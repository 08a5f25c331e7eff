"""Light curves as they come from the store: named arrays, and Datasets of them where people see them."""
