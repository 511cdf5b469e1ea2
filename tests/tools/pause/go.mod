// The program that holds a pod's network while its containers come and go: `cargo xtask tools` builds this module's main.go.
module broadcast.dev/tools/pause

go 1.26.0
