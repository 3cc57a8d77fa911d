// VMware's own simulator of a vCenter (-esx: of a host), from the library that Debian packages.
//
// Prints where it listens, and ends with its standard input. It knows
// inventory, tasks and snapshots, and neither CreateSnapshotEx_Task nor changed areas.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"io/ioutil"
	"log"
	"net/url"
	"os"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	esx := flag.Bool("esx", false, "one host rather than a vCenter")
	certificate := flag.String("certificate", "", "file with its certificate")
	key := flag.String("key", "", "file with the key of that")
	machines := flag.Int("vms", 2, "VMs of each pool")
	flag.Parse()

	model := simulator.VPX()
	// Datacenters stand in folders too.
	model.Folder = 1
	if *esx {
		model = simulator.ESX()
	}
	model.Machine = *machines
	defer model.Remove()
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword("backup", "secret")}
	// The one that the library brings has a key that is too short for clients of today.
	pair, err := tls.LoadX509KeyPair(*certificate, *key)
	if err != nil {
		log.Fatal(err)
	}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server := model.Service.NewServer()
	defer server.Close()

	place := url.URL{Scheme: server.URL.Scheme, Host: server.URL.Host, Path: server.URL.Path}
	fmt.Println(place.String())
	if _, err := io.Copy(ioutil.Discard, os.Stdin); err != nil {
		log.Fatal(err)
	}
}
