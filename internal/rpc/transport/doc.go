// Package transport is a gRPC server over HTTP/2 (RFC 9113), on golang.org/x/net/http2's Framer and hpack's decoder.
//
// A connection has two goroutines and one buffer of what is to be sent:
//
//	socket -> reader: frames, windows, header blocks, messages -> a worker runs the handler
//	                                                                  | the answer's frames, encoded in place
//	socket <- writer: one Write for all that has gathered  <- out <---+
//
// The reader never waits for the writer, nor a handler for the socket: what the client's windows or a full buffer hold
// back is kept by its stream, and streams that wait take turns. Everything that both directions share is under one lock a
// connection, which is held over no I/O.
//
// What a client can make grow has a bound, each a constant or a field of Config: the bytes to be sent, answers held back
// by windows, messages in assembly, header lists, control frames that wait to be answered, and how many streams it may
// reset or frames without use it may send.
package transport
