use super::*;
use crate::export::{ExportAccess, ExportSettings, ExportSpec};
use crate::image::{Image, ImageTool};

#[test]
fn processes_are_shown_while_they_run_and_keep_their_port() {
    let place = Place::new();
    let port = place.port("a", "db", "root");
    let image = place.folder.path().join("root.qcow2");
    Image::create(&image, 1 << 20, None, ImageTool::default()).unwrap();
    let port_use = place.hub.ports().use_for_export(port, &"a".parse().unwrap()).unwrap();
    let name = port_use.lease().export_name();
    let spec = ExportSpec {
        image: image.clone(),
        name: name.clone(),
        listener: port_use.listener(),
        access: ExportAccess::ReadOnly,
        connections: 1,
    };
    let settings = ExportSettings::for_exports(1);
    let export = place.hub.exports().start(spec, Some(port_use), &settings).unwrap();

    let processes = value(&place.get("/api/v1/nbd/processes"));
    let process = &processes["processes"][0];
    assert_eq!(process["pid"], export.pid());
    assert_eq!((&process["port"], &process["export_name"]), (&json!(port), &json!(name)));
    assert_eq!(process["image"], image.to_str().unwrap());
    assert!(process["memory_bytes"].as_u64().unwrap() > 100_000);
    assert!(process["cpu_ms"].is_u64() && process["uptime_ms"].is_u64());
    assert_eq!(process["exited"], Value::Null);
    let path = format!("/api/v1/nbd/ports/{port}?job_id=a");
    refused(&place.delete(&path), 409, "export_runs");
    refused(&place.delete("/api/v1/nbd/ports/job/a"), 409, "export_runs");

    export.end().unwrap();
    assert_eq!(value(&place.get("/api/v1/nbd/processes")), json!({ "processes": [] }));
    assert_eq!(place.delete(&path).status, 200);
}
