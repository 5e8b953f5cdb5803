// Package asyncapi describes the MQTT side of Parley as an AsyncAPI 3.0 document: what
// goes over which topic, in which form, and what is answered. The payloads are Go
// structs in payloads.go, from which their schemas are made; nothing else in the server
// uses them, because the wire form of an event is written by hand in chat.
//
// So the document could say one thing and the server another. asyncapitest holds the two
// together: it checks every payload that passes through the test suite against the
// document as it is served.
//
// What clients send is described strictly, without unknown fields, although the server
// overlooks those: a misspelt one is found by whoever validates. What clients receive
// may grow, and says so.
package asyncapi
