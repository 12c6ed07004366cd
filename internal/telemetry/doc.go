// Package telemetry is how a member tells people about itself: structured logs in etcd's form.
package telemetry
