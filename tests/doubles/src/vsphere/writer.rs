//! Answers as text. The prefixes and the order of attributes are drawn, since a client must not
//! care.

use super::draw::Draw;
use super::fault::Fault;
use super::value::Value;
use super::xml::{SOAP, VIM, XSD, XSI};

/// How one answer is spelled.
#[derive(Debug)]
pub(crate) struct Spelling {
    soap: &'static str,
    xsi: &'static str,
    xsd: &'static str,
    /// Empty where the namespace of the API is the default one.
    vim: &'static str,
    shuffled: Option<Draw>,
}

impl Spelling {
    /// As vCenter writes.
    pub(crate) fn usual() -> Self {
        Self { soap: "soapenv", xsi: "xsi", xsd: "xsd", vim: "", shuffled: None }
    }

    /// Otherwise, and as good.
    pub(crate) fn drawn(draw: &mut Draw) -> Self {
        Self {
            soap: draw.one_of(&["soapenv", "soap", "S", "env", "ns0"]),
            xsi: draw.one_of(&["xsi", "XMLSchema-instance", "i", "t"]),
            xsd: draw.one_of(&["xsd", "xs", "s", "XMLSchema"]),
            vim: draw.one_of(&["", "", "vim", "v", "vim25"]),
            shuffled: Some(Draw::new(draw.next())),
        }
    }

    /// The answer to a call: its results, each in a `returnval`.
    pub(crate) fn answer(self, method: &str, result: &Value) -> String {
        let mut writer = Writer { text: String::new(), spelling: self };
        let name = format!("{method}Response");
        writer.envelope(|writer| {
            writer.open_root(&name, None);
            writer.field("returnval", result, method == "Fetch");
            writer.close(&name);
        });
        writer.text
    }

    /// A fault in an envelope.
    pub(crate) fn fault(self, fault: &Fault) -> String {
        let mut writer = Writer { text: String::new(), spelling: self };
        writer.envelope(|writer| {
            let soap = writer.spelling.soap;
            let code = match fault.kind {
                "InvalidRequest" => "ClientFaultCode",
                _ => "ServerFaultCode",
            };
            writer.text.push_str(&format!(
                "<{soap}:Fault><faultcode>{code}</faultcode><faultstring>{}</faultstring><detail>",
                escaped(&fault.message)
            ));
            let name = format!("{}Fault", fault.kind);
            writer.open_root(&name, Some(fault.kind));
            writer.fields(&fault.fields);
            writer.close(&name);
            writer.text.push_str(&format!("</detail></{soap}:Fault>"));
        });
        writer.text
    }
}

struct Writer {
    text: String,
    spelling: Spelling,
}

impl Writer {
    fn envelope(&mut self, body: impl FnOnce(&mut Self)) {
        let Spelling { soap, xsi, xsd, .. } = self.spelling;
        self.text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        self.text.push_str(&format!("<{soap}:Envelope"));
        self.attributes(vec![
            (format!("xmlns:{soap}"), SOAP.to_owned()),
            (format!("xmlns:{xsi}"), XSI.to_owned()),
            (format!("xmlns:{xsd}"), XSD.to_owned()),
        ]);
        self.text.push_str(&format!(">\n<{soap}:Body>\n"));
        body(self);
        self.text.push_str(&format!("\n</{soap}:Body>\n</{soap}:Envelope>\n"));
    }

    /// The element in which the namespace of the API begins.
    fn open_root(&mut self, name: &str, kind: Option<&str>) {
        let vim = self.spelling.vim;
        let binding = if vim.is_empty() { "xmlns".to_owned() } else { format!("xmlns:{vim}") };
        let mut attributes = vec![(binding, VIM.to_owned())];
        attributes.extend(kind.map(|kind| self.xsi_type(kind)));
        self.open(name, attributes);
    }

    fn open(&mut self, name: &str, attributes: Vec<(String, String)>) {
        self.text.push('<');
        self.name(name);
        self.attributes(attributes);
        self.text.push('>');
    }

    fn close(&mut self, name: &str) {
        self.text.push_str("</");
        self.name(name);
        self.text.push('>');
    }

    fn name(&mut self, name: &str) {
        if !self.spelling.vim.is_empty() {
            self.text.push_str(self.spelling.vim);
            self.text.push(':');
        }
        self.text.push_str(name);
    }

    fn attributes(&mut self, mut attributes: Vec<(String, String)>) {
        if let Some(draw) = &mut self.spelling.shuffled {
            for index in (1..attributes.len()).rev() {
                let other = usize::try_from(draw.below(index as u64 + 1)).expect("an index");
                attributes.swap(index, other);
            }
        }
        for (name, value) in attributes {
            self.text.push_str(&format!(" {name}=\"{}\"", escaped(&value)));
        }
    }

    /// A field; where the schema says `anyType`, the type is always written.
    fn field(&mut self, name: &str, value: &Value, any: bool) {
        match value {
            Value::Unset => {}
            Value::Plain(kind, text) => {
                let attributes = if any { vec![self.xsi_type(kind)] } else { Vec::new() };
                self.open(name, attributes);
                self.text.push_str(&escaped(text));
                self.close(name);
            }
            Value::Reference(reference) => {
                let mut attributes = vec![("type".to_owned(), reference.kind.name().to_owned())];
                if any {
                    attributes.push(self.xsi_type("ManagedObjectReference"));
                }
                self.open(name, attributes);
                self.text.push_str(&escaped(&reference.id));
                self.close(name);
            }
            Value::Object(kind, fields) => {
                let attributes =
                    if any || is_derived(kind) { vec![self.xsi_type(kind)] } else { Vec::new() };
                self.open(name, attributes);
                self.fields(fields);
                self.close(name);
            }
            Value::Array(item, items) if any => {
                let kind = self.xsi_type(&array_of(item));
                self.open(name, vec![kind]);
                for value in items {
                    self.field(item, value, false);
                }
                self.close(name);
            }
            Value::Array(_, items) => {
                for value in items {
                    self.field(name, value, false);
                }
            }
        }
    }

    fn fields(&mut self, fields: &[(&'static str, Value)]) {
        for (name, value) in fields {
            self.field(name, value, is_any(name));
        }
    }

    fn xsi_type(&self, kind: &str) -> (String, String) {
        let plain = kind.starts_with(|first: char| first.is_ascii_lowercase());
        let prefix = if plain { self.spelling.xsd } else { self.spelling.vim };
        let colon = if prefix.is_empty() { "" } else { ":" };
        (format!("{}:type", self.spelling.xsi), format!("{prefix}{colon}{kind}"))
    }
}

/// The fields that the schema gives no type: the value of a property, and a task's result.
fn is_any(field: &str) -> bool {
    matches!(field, "val" | "result")
}

/// Types that stand where the schema names a base of theirs.
fn is_derived(kind: &str) -> bool {
    const DERIVED: &[&str] = &[
        "VirtualDisk",
        "ParaVirtualSCSIController",
        "VirtualDiskFlatVer2BackingInfo",
        "VirtualDiskSparseVer2BackingInfo",
        "VirtualDiskRawDiskMappingVer1BackingInfo",
        "VirtualDiskRawDiskVer2BackingInfo",
        "TaskReasonUser",
        "LocalDatastoreInfo",
    ];
    DERIVED.contains(&kind) || FAULTS.contains(&kind)
}

/// The faults that this server makes.
const FAULTS: &[&str] = &[
    "ApplicationQuiesceFault",
    "CannotAccessFile",
    "FileFault",
    "FileNotFound",
    "GenericVmConfigFault",
    "HostCommunication",
    "HostNotConnected",
    "InvalidArgument",
    "InvalidDeviceSpec",
    "InvalidLogin",
    "InvalidName",
    "InvalidPowerState",
    "InvalidProperty",
    "InvalidRequest",
    "InvalidState",
    "DuplicateName",
    "FilesystemQuiesceFault",
    "ManagedObjectNotFound",
    "NoDiskSpace",
    "NoPermission",
    "NotAuthenticated",
    "NotSupported",
    "RequestCanceled",
    "SnapshotFault",
    "SystemError",
    "TaskInProgress",
    "Timedout",
];

fn array_of(item: &str) -> String {
    let (first, rest) = item.split_at(1);
    format!("ArrayOf{}{rest}", first.to_ascii_uppercase())
}

fn escaped(text: &str) -> std::borrow::Cow<'_, str> {
    quick_xml::escape::escape(text)
}
