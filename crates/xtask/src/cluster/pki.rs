//! Keys of the local cluster: one authority, a certificate for the API server, one with which it calls the kubelet, a key that signs
//! service accounts' tokens, and the administrator's token. Made anew with every cluster, gone with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::cluster::layout::{FIRST_SERVICE_ADDRESS, HOST_ADDRESS, Layout};
use crate::context::write_whole;
use crate::failure::{AtPath, Result};
use crate::step::Step;

/// Makes all keys in the cluster's `pki` folder, and the kubeconfig of its administrator.
pub(crate) fn create(step: &Step, layout: &Layout, api_port: u16) -> Result<()> {
    let folder = layout.file("pki");
    fs::create_dir_all(&folder).at("create", &folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).at("protect", &folder)?;
    let openssl = |arguments: &str| step.run(openssl(&folder).args(arguments.split(' ')));

    openssl("ecparam -name prime256v1 -genkey -noout -out sa.key")?;
    openssl("ec -in sa.key -pubout -out sa.pub")?;
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {new_key} -keyout ca.key -out ca.crt -days 3650 -subj /CN=broadcast-local"))?;
    for (name, subject) in
        [("api", "/CN=kube-apiserver"), ("kubelet-client", "/O=system:masters/CN=kube-apiserver")]
    {
        write_whole(&folder.join("extensions"), certificate_extensions(name).as_bytes())?;
        openssl(&format!("req {new_key} -keyout {name}.key -out {name}.csr -subj {subject}"))?;
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile extensions -out {name}.crt"
        ))?;
    }

    let token = step.read(self::openssl(&folder).args(["rand", "-hex", "16"]))?;
    let token = token.trim();
    write_whole(&folder.join("tokens.csv"), format!("{token},admin,admin,\"system:masters\"\n").as_bytes())?;
    let kubeconfig = layout.kubeconfig();
    write_whole(&kubeconfig, build_kubeconfig(&folder.join("ca.crt"), api_port, token).as_bytes())?;
    fs::set_permissions(&kubeconfig, fs::Permissions::from_mode(0o600)).at("protect", &kubeconfig)
}

fn openssl(folder: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.current_dir(folder);
    command
}

fn certificate_extensions(name: &str) -> String {
    if name != "api" {
        return "extendedKeyUsage=clientAuth\n".to_owned();
    }
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .map(|name| format!("DNS:{name}"));
    let addresses = ["127.0.0.1", FIRST_SERVICE_ADDRESS, HOST_ADDRESS].map(|address| format!("IP:{address}"));
    format!("extendedKeyUsage=serverAuth\nsubjectAltName={},{}\n", names.join(","), addresses.join(","))
}

fn build_kubeconfig(authority: &Path, api_port: u16, token: &str) -> String {
    let authority = authority.display();
    format!(
        r#"apiVersion: v1
kind: Config
clusters: [{{name: broadcast, cluster: {{server: "https://{HOST_ADDRESS}:{api_port}", certificate-authority: "{authority}"}}}}]
users: [{{name: broadcast, user: {{token: "{token}"}}}}]
contexts: [{{name: broadcast, context: {{cluster: broadcast, user: broadcast}}}}]
current-context: broadcast
"#
    )
}
