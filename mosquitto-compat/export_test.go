package mosquitto

// Parse is what Load makes of a file's text.
var Parse = parse
