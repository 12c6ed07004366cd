// Package discovery finds the members of a new cluster that are not listed on the command line: through a store that
// runs already, or through DNS.
//
// It only asks and tells: what comes of it is an initial cluster as --initial-cluster would give it. A member that has
// its log needs none of this any more.
package discovery
