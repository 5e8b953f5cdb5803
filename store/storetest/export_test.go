package storetest

var Sweep = sweep
