package chat

// ValidateNew is validateNew.
var ValidateNew = validateNew
