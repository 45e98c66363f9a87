"""What people see: sentences, figures, the report. The only room that makes prose."""
