"""What humans say of records: the review page, its rows, agreement, the user study, Label Studio. Light: import the modules."""
